//go:build !linux && !darwin && !freebsd

package health

import "errors"

func freeShare(string) (blocks, inodes float64, err error) {
	return 0, 0, errors.New("health: DiskFree does not know this platform")
}
