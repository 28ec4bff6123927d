-- Keep the lease, also one that ran out while nobody took it.
-- KEYS: lease, fence. ARGV: owner, fence, milliseconds.
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 0
end
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
