"""What happens to whatever a user may pass: every public entry point × every kind of bad or unusual argument.

Run as `python tests/input_matrix GROUP`, without the checks of types that the tests switch on, since users have none of
them. Prints one line of JSON for each cell. A cell is sound if the call works and gives no NaN, or if it is refused
with a ValueError or TypeError that names the argument; where nothing sensible can come of it, it has to be refused.
"""
