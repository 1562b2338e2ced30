"""For mkdocs: pages that fetch nothing.

nbconvert's template loads the widget manager from a CDN and carries every widget's state. The
widgets on these pages are recordings that need neither (``widget.snapshot()``). And notebooks link
to pages by their source, ``glossary.md#head``, which is ``glossary.html#head`` here.
"""

import re

_RENDERER = re.compile(r"<script>(?:(?!</script>).)*addWidgetsRenderer.*?</script>", re.S)
_STATE = re.compile(
    r'<script type="application/vnd\.jupyter\.widget-state\+json">.*?</script>', re.S
)
_PAGE = re.compile(r'(<a [^>]*href="[\w/-]+)\.md(?=["#])')


def on_post_page(output: str, page, config) -> str:
    return _PAGE.sub(r"\1.html", _STATE.sub("", _RENDERER.sub("", output)))
