-- Store one slice's running totals; a total never falls, and one whose function is gone is dropped.
-- KEYS: specs. ARGV: slice, prefix of the count keys, then function, uid, total of each.
for i = 3, #ARGV, 3 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if stored and cjson.decode(stored).uid == ARGV[i + 1] then
    local key = ARGV[2] .. ARGV[i + 1]
    local total = tonumber(redis.call('HGET', key, ARGV[1])) or 0
    if tonumber(ARGV[i + 2]) > total then
      redis.call('HSET', key, ARGV[1], ARGV[i + 2])
    end
  end
end
return 1
