"""Data split into training and held-out rows: digits, or your own table."""

from jaxgeo._names import show_public_names as _show_public_names
from jaxgeo.app.data.digit_images import digits as digits
from jaxgeo.app.data.encoder import Encoder as Encoder
from jaxgeo.app.data.table import Table as Table, read_table as read_table
from jaxgeo.app.data.tabular import table_task as table_task
from jaxgeo.app.data.task import Kind as Kind, Task as Task

_show_public_names(globals())
