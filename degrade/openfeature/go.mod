module github.com/go-spillway/spillway/degrade/openfeature

go 1.26.0

replace github.com/go-spillway/spillway => ../..

require (
	github.com/go-spillway/spillway v0.0.0-00010101000000-000000000000
	github.com/open-feature/go-sdk v1.20.0
	github.com/stretchr/testify v1.12.1
)

require (
	go.uber.org/mock v0.6.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
