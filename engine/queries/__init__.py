"""From a query to its hits: what was asked, described, found, ranked and explained."""
