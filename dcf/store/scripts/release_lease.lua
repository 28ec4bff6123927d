-- Give the lease up, if it is still this owner's under this fence.
-- KEYS: lease. ARGV: owner, fence.
local lease = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if lease[1] == ARGV[1] and lease[2] == ARGV[2] then
  redis.call('DEL', KEYS[1])
end
return 1
