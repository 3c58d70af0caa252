"""Who may do what: keys with scopes, and what every answer tells browsers."""
