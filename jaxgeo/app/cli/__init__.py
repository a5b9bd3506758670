"""The commands of `jaxgeo`: what they take, do and print. `jaxgeo.cli` starts them."""
