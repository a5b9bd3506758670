"""The commands of `jaxgeo`: their options, actions and output. `jaxgeo.cli` starts them."""
