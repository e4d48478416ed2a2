"""Plain text: each line is translated; line ends, indents and empty lines stay."""

from llmjax.errors import UserError
from llmjax.translation.document import Document, DocumentFormat, Template


class TextFormat(DocumentFormat):
    """UTF-8 text."""

    def parse(self, data: bytes, name: str) -> Document:
        template = Template()
        for line in decoded(data, name).splitlines(keepends=True):
            template.translate(line)
        return template.document()


def decoded(data: bytes, name: str) -> str:
    """Decode UTF-8, without its byte order mark.

    Raises:
      UserError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UserError(name, reason, "convert it with iconv") from error
