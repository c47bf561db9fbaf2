// Command goeson ends its main thread and goes on in another, as a container's process
// may: the kernel shows it as a zombie that works on.
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
