"""The REST Proxy v2 dialect: its routes, its parsing and its rendering."""
