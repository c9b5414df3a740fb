"""The `/messages` dialect: its routes, its parsing and its rendering."""
