"""The Redis scripts: one takes from several counters at once, all or none; the other moves them. Also encodes claims
and decodes replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmkit_plugins.stores.claims import UNREACHABLE, Claim, Reply

_MICROSECONDS = 1e6
"""Per second: the unit of the scripts."""

# GCRA (ITU-T I.371): a rate's state is when it will be full again, in µs on the Redis clock; the key expires then.
# A permit is a member of a sorted set, scored by the end of its lease; the key expires with the last one.
_LUA = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(number) return string.format('%.0f', math.min(number, 1e17)) end
local function ahead_of(key) return math.max((tonumber(redis.call('GET', key)) or 0) - now, 0) end
local function put(key, ahead)
  redis.call('SET', key, string.format('%.17g', now + ahead), 'PX', whole(ahead / 1000 + 1))
end
"""
TAKE = (
    _LUA
    + """
local patience = tonumber(ARGV[#ARGV])
local ahead, at, late, full, guess = {}, 0, 0, 0, -1
for i, key in ipairs(KEYS) do
  local step, most, wait, holder = tonumber(ARGV[4*i-3]), tonumber(ARGV[4*i-2]), tonumber(ARGV[4*i-1]), ARGV[4*i]
  if holder == '' then
    ahead[i] = ahead_of(key) + step
    local missing = ahead[i] > most and math.max(ahead[i] - wait, 1) or 0
    if missing > late then at, late = i, missing end
  else
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if redis.call('ZCARD', key) >= most and wait > guess then full, guess = i, wait end
  end
end
if late > patience or (late == 0 and full > 0) then
  if guess >= late then at, late = full, guess end
  return {0, at, whole(late)}
end
for i, key in ipairs(KEYS) do
  if ahead[i] ~= nil then
    if ahead[i] > 0 then put(key, ahead[i]) end
  elseif late == 0 then
    redis.call('ZADD', key, whole(now + ARGV[4*i-3]), ARGV[4*i])
    local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
    redis.call('PEXPIREAT', key, whole(last / 1000 + 1))
  end
end
return {1, at, whole(late)}
"""
)
SHIFT = (
    _LUA
    + """
for i, key in ipairs(KEYS) do
  if ARGV[4*i] ~= '' then
    redis.call('ZREM', key, ARGV[4*i])
  else
    local ahead = ahead_of(key) + ARGV[4*i-3]
    if ahead > 0 then put(key, ahead) else redis.call('DEL', key) end
  end
end
"""
)


def arguments_of(claims: Sequence[Claim], patience: float) -> list[str | float]:
    """The arguments of a script: the keys of *claims*, four values for each claim, and *patience*."""
    arguments: list[str | float] = [claim.key for claim in claims]
    for _, step, most, wait, holder in claims:
        counted = most if holder else most * _MICROSECONDS
        arguments += (step * _MICROSECONDS, counted, wait * _MICROSECONDS, holder)
    return [*arguments, patience * _MICROSECONDS]


def reply_of(answer: Any) -> Reply:
    """Decode a script's *answer*."""
    if answer is None or isinstance(answer, Exception):
        return UNREACHABLE
    taken, short, microseconds = answer
    return Reply(bool(taken), short - 1 if short else None, float(microseconds) / _MICROSECONDS)
