"""The report of a run: figures and one self-contained page. `jaxgeo.report.page` loads matplotlib."""
