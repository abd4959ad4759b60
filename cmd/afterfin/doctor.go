// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"afterfin/internal/doctor"
)

func doctorCommand(e env) *cobra.Command {
	var (
		output   string
		filter   filterFlags
		toAdvise bool
		sample   time.Duration
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this kernel and these privileges allow",
		Long: "Tries everything afterfin uses and says what each gives and how to get what is missing.\n" +
			"Exits 0 if watch can run, 4 if a privilege and 5 if a kernel feature is missing.\n" +
			"With --advise it measures instead, and names the settings that would change something: each with\n" +
			"the fact, what it would change and what not. No fact, no advice; it never changes a setting.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			switch {
			case sample < 0:
				return usage("--sample: %v is negative", sample)
			case !toAdvise && (cmd.Flags().Changed("sample") || cmd.Flags().Changed("netns")):
				return usage("--sample and --netns are for --advise")
			case toAdvise:
				cfg, err := filter.parse()
				if err != nil {
					return err
				}
				return advise(e, cfg, output, sample)
			}
			checks := doctor.Run()
			if err := writeChecks(e, output, checks); err != nil {
				return &failure{code: exitRuntime, err: err}
			}
			return refuse(checks)
		},
	}
	addOutput(cmd, &output)
	flags := cmd.Flags()
	flags.BoolVar(&toAdvise, "advise", false, "say which settings would change something that is measured")
	flags.DurationVar(&sample, "sample", 10*time.Second, "with --advise: measure for this long; 0: one look, without BPF")
	filter.registerNetNS(flags)
	return cmd
}

func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "text or json")
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usage("-o: %q is neither text nor json", output)
	}
	return nil
}

func writeChecks(e env, output string, checks []doctor.Check) error {
	if output == "json" {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			Checks []doctor.Check `json:"checks"`
		}{checks})
	}
	for _, c := range checks {
		word := "ok"
		if !c.OK {
			word = "no"
			if c.Need != doctor.Optional {
				word = "NO"
			}
		}
		fmt.Fprintf(e.stdout, "%-2s  %-16s  %s\n", word, c.Name, c.Found)
		fmt.Fprintf(e.stdout, "    %-16s  gives: %s\n", "", c.Gives)
		if c.Remedy != "" {
			fmt.Fprintf(e.stdout, "    %-16s  remedy: %s\n", "", c.Remedy)
		}
	}
	return nil
}

// refuse turns a failed check into the error that every command gives for it;
// nil if nothing necessary is missing.
func refuse(checks []doctor.Check) error {
	c := doctor.Failed(checks)
	if c == nil {
		return nil
	}
	code := exitFeature
	if c.Need == doctor.Privilege {
		code = exitPrivilege
	}
	return &failure{code: code, err: errors.New(c.Name + ": " + c.Found), hint: c.Remedy}
}
