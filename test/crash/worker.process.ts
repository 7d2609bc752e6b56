// The process that dies. It gets ready, says so, waits for strace to be attached and for a line on stdin, then acts.
//   worker.process.ts ROOT SCENE
import { once } from 'node:events'
import { openSpool, startOwner } from '../../src/spool/index.ts'
import { layout, scenes } from './scene.ts'

const [root, name] = process.argv.slice(2)
const scene = scenes[name!]!
const s = await openSpool({
  layout: layout(root!),
  create: true,
  log: (event, fields) => {
    if (event.endsWith('error')) process.stdout.write(`error ${event} ${JSON.stringify(fields)}\n`)
  },
})
await startOwner(s)
const claims = (await scene.before?.(s)) ?? []
process.stdout.write('ready\n')
await once(process.stdin, 'data')

// An error that passes must leave a process that can go on: it reports it and does the same again, as an agent's loop does.
for (let attempt = 1; attempt <= 3; attempt++) {
  try {
    await scene.run(s, claims)
    break
  } catch (error) {
    process.stdout.write(`error ${String(error).replaceAll('\n', ' ')}\n`)
  }
}
process.stdout.write('done\n')
process.exit(0)
