module github.com/go-spillway/spillway/examples/connect

go 1.26.0

replace github.com/go-spillway/spillway => ../..

require (
	connectrpc.com/connect v1.21.1
	github.com/go-spillway/spillway v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
	google.golang.org/protobuf v1.36.11
)

require (
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/time v0.16.0 // indirect
)
