"""One tile of keys through the online softmax, as every kernel of this folder does it.

Scores are in base 2: everything that enters them is multiplied by log2(e), so that ``exp2`` gives the softmax. A
head_dim that is no power of two is taken as two parts, MAIN + REST (80 = 64 + 16): nothing is padded.
"""

from __future__ import annotations

from ...triton_language import dot, jit, tl


@jit
def load_channels(rows, MAIN: tl.constexpr, REST: tl.constexpr, mask):
    """(BLOCK,) pointers to channel 0 of each row -> (BLOCK, MAIN) and (BLOCK, REST), zero where masked."""
    channel = tl.arange(0, MAIN)
    main = tl.load(rows[:, None] + channel[None, :], mask=mask[:, None], other=0)
    rest = main
    if REST > 0:
        rest = tl.load(rows[:, None] + (MAIN + tl.arange(0, REST))[None, :], mask=mask[:, None], other=0)
    return main, rest


@jit
def store_channels(rows, main, rest, MAIN: tl.constexpr, REST: tl.constexpr, mask):
    """The inverse of `load_channels`, converting to the type of ``rows``."""
    dtype = rows.dtype.element_ty
    tl.store(rows[:, None] + tl.arange(0, MAIN)[None, :], main.to(dtype), mask=mask[:, None])
    if REST > 0:
        tl.store(rows[:, None] + (MAIN + tl.arange(0, REST))[None, :], rest.to(dtype), mask=mask[:, None])


@jit
def pick_rows(padded, padding, rows):
    """``rows``, or ``padding`` where a slot is padded; the compiler cannot see that both are aligned to 16 bytes."""
    return tl.multiple_of(tl.where(padded, padding, rows), 16)


@jit
def dot_keys(q, q_rest, key_rows, MAIN: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr):
    """q . k of every query with the keys whose channel 0 is at ``key_rows``: (BLOCK_M, BLOCK_N) float32."""
    k = tl.load(key_rows[None, :] + tl.arange(0, MAIN)[:, None])
    score = dot(q, k, None, PRECISION)
    if REST > 0:
        k_rest = tl.load(key_rows[None, :] + (MAIN + tl.arange(0, REST))[:, None])
        score = dot(q_rest, k_rest, score, PRECISION)
    return score


@jit
def accumulate(
    score, value_rows, peak, total, out, out_rest, MAIN: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr
):
    """Take one tile of scores and its values into the running softmax.

    ``peak`` (BLOCK_M,) is the highest score so far, ``total`` the sum of weights and ``out`` that of weighted values,
    both relative to it. A tile may be masked throughout (-inf) in any row that has met a finite score before.
    """
    new_peak = tl.maximum(peak, tl.max(score, 1))
    shrink = tl.exp2(peak - new_peak)
    weight = tl.exp2(score - new_peak[:, None])
    total = total * shrink + tl.sum(weight, 1)
    v = tl.load(value_rows[:, None] + tl.arange(0, MAIN)[None, :])
    weight = weight.to(v.dtype)
    out = dot(weight, v, out * shrink[:, None], PRECISION)
    if REST > 0:
        v_rest = tl.load(value_rows[:, None] + (MAIN + tl.arange(0, REST))[None, :])
        out_rest = dot(weight, v_rest, out_rest * shrink[:, None], PRECISION)
    return new_peak, total, out, out_rest


@jit
def line_bias(terms, first, stride, line_of_key, LINES: tl.constexpr):
    """One half of the bias for keys on LINES rows, or columns, of the grid: (BLOCK_M, 1) or (BLOCK_M, BLOCK_N).

    ``terms`` points at each query's term for line 0, ``first`` is the tile's first line, ``stride`` leads from one of
    its lines to the next, ``line_of_key`` (BLOCK_N,) counts from the first. Only LINES values are loaded for a query,
    and the choice between them costs nothing: which keys a thread holds is known when the kernel is compiled.
    """
    bias = tl.load(terms + first * stride)[:, None]
    for line in tl.static_range(1, LINES):
        other = tl.load(terms + (first + line) * stride)
        bias = tl.where(line_of_key[None, :] == line, other[:, None], bias)
    return bias
