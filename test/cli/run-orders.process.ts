// `vmspool run` by way of Node, up to the moment at which it becomes the shim's starter: prints, as JSON, what it would become.
import { runNow } from '../../src/cli/run-now.ts'

process.execve = (file, args, env) => {
  process.stdout.write(JSON.stringify({ file, args, env }))
  process.exit(0)
}
await runNow(process.argv.slice(2))
