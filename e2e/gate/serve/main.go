// serve runs the small gate server of package gate, for trying the hook:
//
//	go run ./e2e/gate/serve -token-file F -repos DIR -listen ADDRESS
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"terok-gate-hook/e2e/gate"
)

func main() {
	tokenFile := flag.String("token-file", "", "the token file, as terok-gate-hook path prints it")
	repos := flag.String("repos", ".", "the folder with the bare repositories, <project>.git")
	listen := flag.String("listen", "127.0.0.1:9418", "address and port")
	flag.Parse()
	if err := serve(*tokenFile, *repos, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
}

func serve(tokenFile, repos, listen string) error {
	repos, err := filepath.Abs(repos) // git wants it so
	if err != nil {
		return err
	}
	g, err := gate.New(tokenFile, repos)
	if err != nil {
		return err
	}
	fmt.Println("gate: serving", repos, "at", listen)
	return http.ListenAndServe(listen, g)
}
