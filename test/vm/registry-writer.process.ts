// Writes to a registry, in a process of its own that a test can kill or stop: `node … DIR NAME TIMES [OTHER]`. Says `NAME n` after each change.
import { writeSync } from 'node:fs'
import { open, plusOne } from './records.ts'

const [dir, name, times, other] = process.argv.slice(2)
const registry = await open(dir!)
for (let i = 0; i < Number(times); i++) {
  const r = await registry.update(name!, plusOne(name!))
  writeSync(1, `${name} ${r!.metadata.n}\n`)
  if (other === undefined) continue
  await registry.update(other, plusOne(other))
  writeSync(1, `${other}\n`)
}
