"""What needs no mesh: catalogs from files, and what a proxy would be given by them."""
