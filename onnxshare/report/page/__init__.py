"""Reports as one page that needs nothing else: charts, tables, and a script that moves them."""
