// The scripted hyperexport as a program of its own: node hyperexport.process.ts '{"manifestPath":…}'; prints its result as JSON.
import { executePipeline } from './hyperexport.ts'

process.stdout.write(`${JSON.stringify(await executePipeline(JSON.parse(process.argv[2] ?? '{}')))}\n`)
