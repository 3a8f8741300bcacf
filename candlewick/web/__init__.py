"""Web views on Faust's web server: what is kept, over HTTP."""
