// A process of its own that gets one image: argv[2] is {options, name}. Prints one JSON line for each step, and the image in the end.
import { openImages } from '../../src/vm/images/index.ts'

const { options, name } = JSON.parse(process.argv[2]!)
const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`)
try {
  const image = await openImages(options).get(name, {
    signal: new AbortController().signal,
    progress: (done, total, more) => say({ done, total, ...more }),
    log: (text) => say({ log: text }),
  })
  say({ image })
} catch (e) {
  say({ error: (e as Error).message, code: (e as { code?: string }).code })
  process.exitCode = 1
}
