// SPDX-License-Identifier: Apache-2.0

// Package privilege gives up what is not needed any more.
package privilege

import (
	"fmt"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Keep has this process go on with these capabilities at most, and start no program that has more:
// all threads lose the others for good. Those that are not there stay away.
func Keep(values ...cap.Value) error {
	have := cap.GetProc()
	only := cap.NewSet()
	for _, v := range values {
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
			on, err := have.GetFlag(flag, v)
			if err == nil {
				err = only.SetFlag(flag, on, v)
			}
			if err != nil {
				return fmt.Errorf("give up capabilities: %w", err)
			}
		}
	}
	if err := only.SetProc(); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
