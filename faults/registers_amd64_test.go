package faults

import "golang.org/x/sys/unix"

const canTrace = true

// Calls that only this architecture has, and that touch nothing outside.
var localHere = []uintptr{unix.SYS_ARCH_PRCTL, unix.SYS_EPOLL_WAIT, unix.SYS_POLL}

// skipCall makes a thread skip the call that it is about to make.
func skipCall(tid int) error {
	return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) })
}

// setResult gives a thread an error as the result of the call from which it is about to return.
func setResult(tid int, errno unix.Errno) error {
	return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Rax = -uint64(errno) })
}

func changeRegisters(tid int, change func(*unix.PtraceRegs)) error {
	var registers unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &registers); err != nil {
		return err
	}
	change(&registers)
	return unix.PtraceSetRegs(tid, &registers)
}
