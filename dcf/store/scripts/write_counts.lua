-- Store one slice's running totals; a total never falls, and those whose function is gone are dropped.
-- KEYS: specs. ARGV: prefix of the count keys, then for each function: its name, uid, the number of totals, and of
-- each its field (slice/measure) and its value.
local i = 2
while i <= #ARGV do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  local known = stored and cjson.decode(stored).uid == ARGV[i + 1]
  local key = ARGV[1] .. ARGV[i + 1]
  local after = i + 3 + 2 * tonumber(ARGV[i + 2])
  for j = i + 3, after - 1, 2 do
    if known and tonumber(ARGV[j + 1]) > (tonumber(redis.call('HGET', key, ARGV[j])) or 0) then
      redis.call('HSET', key, ARGV[j], ARGV[j + 1])
    end
  end
  i = after
end
return 1
