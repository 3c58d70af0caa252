#!/bin/sh
# Writes the configuration of nginx from the settings of the service, and starts it.
# `start.sh check` writes it and has nginx read it, no more.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
# All that nginx writes is below this folder: the rest of the container is read-only.
RUN_DIR=${RUN_DIR:-/tmp/nginx}
UPSTREAM=${UPSTREAM:-cooc:8000}
HTTP_LISTEN=${HTTP_LISTEN:-8080}
HTTPS_LISTEN=${HTTPS_LISTEN:-8443}
HTTPS_PORT=${HTTPS_PORT:-443}
TLS=${TLS:-off}
TLS_DIR=${TLS_DIR:-/tls}

fail() {
    echo "start.sh: $1" >&2
    exit 1
}

whole() {
    case $2 in
    '' | *[!0-9]*) fail "$1 is '$2'; give a whole number" ;;
    esac
}

# The limits of app/main.py, in bytes: a body is refused here when the service would refuse it.
whole COOC_MAX_UPLOAD_MB "${COOC_MAX_UPLOAD_MB:=32}"
whole COOC_MAX_BULK_MB "${COOC_MAX_BULK_MB:=2048}"
FORM_OVERHEAD=$((2 << 20))
IMAGE_BYTES=$((COOC_MAX_UPLOAD_MB << 20))
MAX_BODY=$((IMAGE_BYTES * 4 / 3 + FORM_OVERHEAD))
MAX_SEARCH=$((IMAGE_BYTES * 16 / 3 + FORM_OVERHEAD))
MAX_COMPARE=$((IMAGE_BYTES * 8 / 3 + FORM_OVERHEAD))
MAX_BULK=$(((COOC_MAX_BULK_MB << 20) + FORM_OVERHEAD))
MAX_SESSION=4096

# The service answers 504 itself at its deadline; nginx gives up later, so that this is heard.
DEADLINE_S=${COOC_DEADLINE_S:-120}
DEADLINE_S=${DEADLINE_S%%.*}
whole COOC_DEADLINE_S "${DEADLINE_S:=0}"
TIMEOUT_S=$((DEADLINE_S + ${MARGIN_S:-30}))

# `/photos`, however it was written; empty for none.
PREFIX=$(echo "${COOC_ROOT_PATH:-}" | tr -s / | sed 's,^/,,; s,/$,,')
case $PREFIX in
*[!A-Za-z0-9/_-]*) fail "COOC_ROOT_PATH is '$PREFIX'; letters, digits, - and _ only" ;;
esac
[ -z "$PREFIX" ] || PREFIX=/$PREFIX

# Where names are looked up again, because a service that was made anew has another address.
RESOLVER=${RESOLVER:-$(awk '$1 == "nameserver" { print $2; exit }' /etc/resolv.conf 2>/dev/null || true)}
case $RESOLVER in
*:*) RESOLVER="[$RESOLVER]" ;;
esac
RESOLVER=${RESOLVER:-127.0.0.11}

# Proxies in front of this one, whose X-Forwarded-For and X-Forwarded-Proto are believed.
FRONT_NETWORKS='' REAL_IP=''
for network in $(echo "${FRONT_PROXIES:-}" | tr ',' ' '); do
    case $network in
    *[!0-9a-fA-F:./]*) fail "FRONT_PROXIES has '$network'; give addresses or networks" ;;
    esac
    FRONT_NETWORKS="$FRONT_NETWORKS$network 1; "
    REAL_IP="${REAL_IP}set_real_ip_from $network; "
done
[ -z "$REAL_IP" ] || REAL_IP="${REAL_IP}real_ip_header X-Forwarded-For; real_ip_recursive on;"

# One location for each status that nginx answers by itself, with a problem document as the
# service has them: problem STATUS CODE TITLE DETAIL [HEADER]
# Not a named location (@413), which needs an address, and some bad requests have none.
problem() {
    cat <<END
error_page $1 /.problem/$1;
location = /.problem/$1 {
    internal;
    client_max_body_size 0;
    default_type application/problem+json;
    add_header X-Request-ID \$request_name always;
    add_header X-Content-Type-Options nosniff always;
    add_header Content-Security-Policy "default-src 'none'; frame-ancestors 'none'; sandbox" always;
    add_header Cache-Control no-store always;
    ${5:-}
    return $1 '{"type":"urn:cooc:problem:$2","title":"$3","status":$1,"detail":"$4","instance":"\$instance","code":"$2","request_id":"\$request_name","errors":[]}';
}
END
}

problems() {
    problem 400 bad_request 'Bad Request' 'the request is not HTTP as this server reads it'
    problem 404 not_found 'Not Found' "the service is at $PREFIX/"
    problem 405 method_not_allowed 'Method Not Allowed' \
        'the service knows GET, HEAD, POST, PUT, PATCH and DELETE' \
        'add_header Allow "GET, HEAD, POST, PUT, PATCH, DELETE" always;'
    problem 408 request_timeout 'Request Timeout' 'the request took too long to arrive'
    problem 413 payload_too_large 'Request Entity Too Large' \
        "the body is larger than this address takes: a photo may have $COOC_MAX_UPLOAD_MB MB, a bulk \
upload $COOC_MAX_BULK_MB MB; send less, or raise COOC_MAX_UPLOAD_MB or COOC_MAX_BULK_MB"
    problem 414 uri_too_long 'Request-URI Too Long' 'the address is longer than 16 kB'
    problem 431 request_header_fields_too_large 'Request Header Fields Too Large' \
        'a header is longer than 16 kB'
    problem 502 bad_gateway 'Bad Gateway' 'the service does not answer; it may be starting' \
        'add_header Retry-After 5 always;'
    problem 503 service_unavailable 'Service Unavailable' 'try again in a few seconds' \
        'add_header Retry-After 5 always;'
    problem 504 gateway_timeout 'Gateway Timeout' \
        "the service did not answer within $TIMEOUT_S s" 'add_header Retry-After 5 always;'
}

case $TLS in
off) SERVER=plain ;;
on)
    SERVER=tls
    for file in fullchain.pem privkey.pem; do
        [ -r "$TLS_DIR/$file" ] ||
            fail "TLS is on and $TLS_DIR/$file cannot be read by the user $(id -u)"
    done
    ;;
*) fail "TLS is '$TLS'; give on or off" ;;
esac
# Of what is published, 127.0.0.1:8443 say, the port.
HTTPS_PORT=${HTTPS_PORT##*:}
whole HTTPS_PORT "$HTTPS_PORT"
HTTPS_SUFFIX=
[ "$HTTPS_PORT" = 443 ] || HTTPS_SUFFIX=:$HTTPS_PORT

mkdir -p "$RUN_DIR"
problems >"$RUN_DIR/problems.conf"
export RUN_DIR UPSTREAM HTTP_LISTEN HTTPS_LISTEN HTTPS_SUFFIX TLS_DIR PREFIX RESOLVER SERVER \
    MAX_BODY MAX_SEARCH MAX_COMPARE MAX_BULK MAX_SESSION TIMEOUT_S FRONT_NETWORKS REAL_IP
NAMES='$RUN_DIR $UPSTREAM $HTTP_LISTEN $HTTPS_LISTEN $HTTPS_SUFFIX $TLS_DIR $PREFIX $RESOLVER
    $SERVER $MAX_BODY $MAX_SEARCH $MAX_COMPARE $MAX_BULK $MAX_SESSION
    $TIMEOUT_S $FRONT_NETWORKS $REAL_IP'
for name in nginx service plain tls; do
    envsubst "$NAMES" <"$HERE/$name.conf.template" >"$RUN_DIR/$name.conf"
done
# With a prefix the rest of the site is somebody else's.
if [ -n "$PREFIX" ]; then
    cat >"$RUN_DIR/prefix.conf" <<END
location = $PREFIX { return 308 \$proto://\$http_host$PREFIX/; }
location / { return 404; }
END
else
    : >"$RUN_DIR/prefix.conf"
fi

[ "${1:-}" != check ] || exec nginx -t -q -e stderr -c "$RUN_DIR/nginx.conf"
exec nginx -e stderr -c "$RUN_DIR/nginx.conf" -g 'daemon off;'
