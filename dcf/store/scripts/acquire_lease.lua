-- Take the lease if it is free or the owner's own; answer the new fence, or nothing.
-- KEYS: lease, fence. ARGV: owner, milliseconds.
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then
  return false
end
-- Milliseconds of the clock: also a Redis that lost its last second gives no fence twice.
local now = redis.call('TIME')
local fence = math.max((tonumber(redis.call('GET', KEYS[2])) or 0) + 1, now[1] * 1000 + math.floor(now[2] / 1000))
local text = string.format('%.0f', fence)
redis.call('SET', KEYS[2], text)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', text)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return fence
