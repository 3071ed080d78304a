//go:build linux || darwin || freebsd

package health

import "syscall"

// freeShare returns which shares of the blocks and the inodes of a file system
// are free for this process. One without a fixed number of inodes has all free.
func freeShare(path string) (blocks, inodes float64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	blocks, inodes = 1, 1
	if s.Blocks > 0 {
		blocks = float64(s.Bavail) / float64(s.Blocks)
	}
	if s.Files > 0 {
		inodes = float64(s.Ffree) / float64(s.Files)
	}
	return blocks, inodes, nil
}
