-- Set the statuses of many functions, if no newer leader was chosen.
-- KEYS: fence, statuses. ARGV: channel, fence, then for each function: name, JSON, and "1" where it is news.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return 0
end
for i = 3, #ARGV, 3 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] == '1' then
    redis.call('PUBLISH', ARGV[1], 'status ' .. ARGV[i])
  end
end
return 1
