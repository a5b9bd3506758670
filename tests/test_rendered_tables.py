"""The tables in the documents match the committed results."""

from benchmarks.render import TABLES, documents, rendered


def test_documents_are_rendered_from_the_results():
    texts = {path.name: path.read_text() for path in documents()}
    assert {name: rendered(text) for name, text in texts.items()} == texts
    for name in TABLES:
        assert sum(f"<!-- table: {name} -->" in text for text in texts.values()) == 1
