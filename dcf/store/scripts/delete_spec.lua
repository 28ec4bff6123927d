-- Remove a spec and all count slices of it.
-- KEYS: specs. ARGV: channel, function, prefix of the count keys.
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if not stored then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('DEL', ARGV[3] .. cjson.decode(stored).uid)
redis.call('PUBLISH', ARGV[1], 'spec ' .. ARGV[2])
return 1
