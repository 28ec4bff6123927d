-- Set or remove one function's field in several hashes, if no newer leader was chosen.
-- KEYS: fence, then hashes. ARGV: channel, fence, function, then family and value of each hash; "" removes.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return 0
end
for i = 2, #KEYS do
  local family, value = ARGV[2 * i], ARGV[2 * i + 1]
  if value == '' then
    redis.call('HDEL', KEYS[i], ARGV[3])
  else
    redis.call('HSET', KEYS[i], ARGV[3], value)
  end
  redis.call('PUBLISH', ARGV[1], family .. ' ' .. ARGV[3])
end
return 1
