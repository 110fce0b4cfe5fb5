"""Base URLs of the vendors behind one url; shared by the simulator and its remote control."""

from __future__ import annotations


class Addresses:
    """Whoever has a `url` has these."""

    url: str

    @property
    def openai_base(self) -> str:
        return f"{self.url}/openai/v1"

    @property
    def azure_endpoint(self) -> str:
        return f"{self.url}/azure"

    @property
    def anthropic_base(self) -> str:
        return f"{self.url}/anthropic"

    @property
    def gemini_base(self) -> str:
        return f"{self.url}/gemini"

    @property
    def grok_base(self) -> str:
        return f"{self.url}/grok/v1"

    @property
    def ngrok_base(self) -> str:
        return f"{self.url}/ngrok"

    @property
    def llama_base(self) -> str:
        return f"{self.url}/llama/v1"
