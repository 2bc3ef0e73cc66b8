from reports.blocks import Bullets, Code, Grid, Heading, Paragraph, Picture, to_html, to_markdown

BLOCKS = [
    Heading("Title", level=1),
    Paragraph("The <answer>.", strong=True),
    Bullets(["one", "two"]),
    Picture("a.png", "A picture"),
    Grid("| a |", "<table></table>"),
    Code("run --it"),
]


def test_markdown() -> None:
    assert to_markdown(BLOCKS) == (
        "# Title\n\n**The <answer>.**\n\n- one\n- two\n\n![A picture](a.png)\n\n| a |\n\n"
        "```\nrun --it\n```\n"
    )


def test_html_is_one_page_that_needs_no_other_file() -> None:
    page = to_html(BLOCKS, {"a.png": b"png"})
    assert '<meta charset="utf-8">' in page
    assert "<title>Title</title>" in page
    assert "<strong>The &lt;answer&gt;.</strong>" in page
    assert 'src="data:image/png;base64,cG5n"' in page
    assert "<table></table>" in page
    assert "http" not in page
