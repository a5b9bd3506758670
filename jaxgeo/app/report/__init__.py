"""The report of a run: figures and one self-contained page. Importing `jaxgeo.app.report.page` loads matplotlib."""
