"""The report of a run: figures and one self-contained page. `jaxgeo.app.report.page` loads matplotlib."""
