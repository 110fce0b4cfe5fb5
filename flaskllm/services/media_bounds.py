"""What vectors and images may come to before they are made, and what they came to where nobody tells."""

from __future__ import annotations

from dataclasses import replace

from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.image import USUAL_SIZE, ImageRequest, ImageResult, size_of
from flaskllm.domain.pricing import MOST_IMAGE_TOKENS, Price, bound_of, image_bound, image_price
from flaskllm.domain.usage import Usage
from flaskllm.services.ledger import Attempt, Bound


def vectors_bound(candidate: Candidate, tokens: int) -> Bound:
    """Of inputs of so many tokens."""
    price = candidate.model.price
    return Bound(bound_of(tokens, 0, price), Usage(tokens, estimated=True), price)


def images_bound(request: ImageRequest, candidate: Candidate, tokens: int) -> Bound:
    """Of as many images as are asked for; ``tokens``: the prompt's."""
    price = image_price(candidate.model.price, _asked_size(request), request.params.get("quality"))
    return Bound(image_bound(tokens, request.count, price), _most_drawn(tokens, request.count, price), price)


def _asked_size(request: ImageRequest) -> tuple[int, int] | None:
    """Width and height; None where the provider may choose."""
    size = request.params.get("size")
    return USUAL_SIZE if size is None else size_of(size)


def price_of_drawn(request: ImageRequest, result: ImageResult, candidate: Candidate) -> Price | None:
    """By what the provider says that it drew, else by what was asked for."""
    size = size_of(result.size) or _asked_size(request) or USUAL_SIZE
    return image_price(candidate.model.price, size, result.quality or request.params.get("quality"))


def _most_drawn(prompt_tokens: int, count: int, price: Price | None) -> Usage:
    """What ``count`` images may have taken where nobody tells."""
    if price is not None and price.images is not None:
        return Usage(prompt_tokens, images=count, estimated=True)
    return Usage(prompt_tokens, image_output=count * MOST_IMAGE_TOKENS, estimated=True)


def usage_of_drawn(result: ImageResult, attempt: Attempt) -> Usage:
    """Tokens where the provider told them, images where they are paid by the piece.

    Where they are paid by tokens and none are told, what they may have taken at the most.
    """
    count, price = len(result.images), attempt.price
    told = attempt.believed(result.usage, pieces=count)
    by_piece = price is not None and price.images is not None
    if told is not None:
        return replace(told, images=count) if by_piece else told
    if by_piece or price is None or price.is_free:
        return Usage(input=attempt.prompt_tokens, images=count, estimated=not by_piece)
    return _most_drawn(attempt.prompt_tokens, count, price)
