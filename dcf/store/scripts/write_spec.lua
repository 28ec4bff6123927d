-- Store a spec if nobody else wrote it since it was read.
-- KEYS: specs. ARGV: channel, function, JSON, expected revision (0: none is stored).
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if stored == ARGV[3] then
  return 1 -- the client lost the answer and asks again
end
local revision = 0
if stored then
  revision = cjson.decode(stored).revision
end
if revision ~= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PUBLISH', ARGV[1], 'spec ' .. ARGV[2])
return 1
