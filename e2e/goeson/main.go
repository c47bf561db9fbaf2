// Command goeson ends its main thread and goes on in another thread, as a container's process may.
// The kernel shows such a process as a zombie, although it is alive.
package main

import (
	"runtime"
	"syscall"
	"time"
)

func init() { runtime.LockOSThread() } // main runs on the main thread

func main() {
	go func() {
		for {
			time.Sleep(time.Second)
		}
	}()
	syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0) // of this thread alone
}
