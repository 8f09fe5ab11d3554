"""exp, log, log gamma and digamma for compiled loops, in float32 and in float64, and bfloat16 to and fro.

A call of a library keeps a loop from becoming vector instructions, and a branch does too: hence functions of our own,
correct to about an ulp, that consist of arithmetic alone.
"""

from __future__ import annotations

import math

import numpy as np

from cellalign.nn.kernels.jit import D, F, compiled, inlined

INT, LONG = np.int32, np.int64

# log 2 in two parts, of which whole multiples of the first are exact
LOG2_HIGH = F(0.693359375)
LOG2_LOW, PER_LOG2 = F(math.log(2) - 0.693359375), F(1 / math.log(2))
SQRT_HALF, MANTISSA = INT(F(math.sqrt(0.5)).view(INT)), INT(23)
# exp(r) = sum of r^k / k!, |r| < log(2) / 2; log(m) = 2 artanh(s) = sum of 2 s^k / k over odd k, |s| < 0.172
E2, E3, E4, E5, E6, E7 = (F(1 / math.factorial(k)) for k in range(2, 8))
L3, L5, L7, L9 = (F(2 / k) for k in (3, 5, 7, 9))


@inlined
def exp(x):
    """Of -87 to 88; cut beyond."""
    x = F(-87) if x < F(-87) else x
    x = F(88) if x > F(88) else x
    n = np.floor(x * PER_LOG2 + F(0.5))
    r = x - n * LOG2_HIGH
    r = r - n * LOG2_LOW
    p = ((((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2) * r + F(1)) * r + F(1)
    return p * INT((INT(n) + INT(127)) << MANTISSA).view(F)


@inlined
def log(x):
    """Of normal numbers; NaN of what is NaN or infinite."""
    bits = F(x).view(INT)
    k = INT(bits - SQRT_HALF) >> MANTISSA
    f = INT(bits - INT(k << MANTISSA)).view(F) - F(1)
    s = f / (F(2) + f)
    z = s * s
    p = (((L9 * z + L7) * z + L5) * z + L3) * z + F(2)
    return F(k) * LOG2_HIGH + (p * s + F(k) * LOG2_LOW) + (x - x)


@inlined
def log1p(x, one_more, over):
    """log(1 + x), given 1 + x and its inverse: of what that rounds away, the first term."""
    return log(one_more) + (x - (one_more - F(1))) * over


# the same in float64: e^r by its series up to r^12, log by that of artanh up to s^21
E64 = tuple(1 / math.factorial(k) for k in range(12, -1, -1))
L64 = tuple(2 / k for k in range(21, 0, -2))
LOG2_HIGH64 = float.fromhex("0x1.62e42fee00000p-1")
LOG2_LOW64, PER_LOG2_64 = float.fromhex("0x1.a39ef35793c76p-33"), 1 / math.log(2)
SQRT_HALF64, MANTISSA64 = LONG(D(math.sqrt(0.5)).view(LONG)), LONG(52)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
STIRLING = 16.0  # from here on five terms of the series are exact


@inlined
def exp64(x):
    """Of -700 to 700; cut beyond."""
    x = max(-700.0, min(700.0, x))
    n = np.floor(x * PER_LOG2_64 + 0.5)
    r = x - n * LOG2_HIGH64
    r = r - n * LOG2_LOW64
    p = 0.0
    for c in E64:
        p = p * r + c
    return p * LONG((LONG(n) + LONG(1023)) << MANTISSA64).view(D)


@inlined
def log64(x):
    """Of normal numbers."""
    bits = D(x).view(LONG)
    k = LONG(bits - SQRT_HALF64) >> MANTISSA64
    f = LONG(bits - LONG(k << MANTISSA64)).view(D) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 0.0
    for c in L64:
        p = p * z + c
    return D(k) * LOG2_HIGH64 + (p * s + D(k) * LOG2_LOW64)


@inlined
def large_gammas(y):
    """Log gamma and digamma of y >= STIRLING, in float64, by Stirling's series."""
    log_y, over = log64(y), 1 / y
    z = over * over
    series = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z / 1188)))) * over
    log_gamma = (y - 0.5) * log_y - y + HALF_LOG_2PI + series
    digamma = log_y - 0.5 * over - z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z / 132))))
    return log_gamma, digamma


@compiled
def gammas(y):
    """Log gamma and digamma of y > 0, in float64: by recurrence below STIRLING."""
    product, below = 1.0, 0.0
    while 0 < y < STIRLING:
        product *= y
        below += 1 / y
        y += 1
    log_gamma, digamma = large_gammas(y)
    return log_gamma - math.log(product), digamma - below


# bfloat16, of which numba knows nothing, as the 16 bits it is


@compiled
def widen(bits, into):
    """To float32."""
    for j in range(len(bits)):
        into[j] = INT(INT(bits[j]) << INT(16)).view(F)


@compiled
def narrow(values, into):
    """To the nearest bfloat16, of two as near to the even one."""
    for j in range(len(values)):
        bits = F(values[j]).view(INT)
        into[j] = np.int16(INT(bits + INT(0x7FFF) + ((bits >> INT(16)) & INT(1))) >> INT(16))
