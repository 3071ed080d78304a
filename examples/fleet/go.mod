module github.com/go-spillway/spillway/examples/fleet

go 1.26.0

replace (
	github.com/go-spillway/spillway => ../..
	github.com/go-spillway/spillway/cache/rediscache => ../../cache/rediscache
	github.com/go-spillway/spillway/ratelimit/redislimit => ../../ratelimit/redislimit
)

require (
	github.com/go-spillway/spillway v0.0.0
	github.com/go-spillway/spillway/cache/rediscache v0.0.0-00010101000000-000000000000
	github.com/go-spillway/spillway/ratelimit/redislimit v0.0.0-00010101000000-000000000000
	github.com/redis/go-redis/v9 v9.23.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
