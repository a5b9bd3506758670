"""What leads out of a page, and what a browser would run in it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags of a page with the names of their attributes, and whatever leads out of it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.led = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        links = [value for name, value in attrs if name in ("href", "src", "xlink:href", "action", "data")]
        self.led += [value for value in links if not value.startswith("#")]
