//go:build !unix

package fileblob

import "os"

func tryLock(*os.File) lockResult { return noLocks }
