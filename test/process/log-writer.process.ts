// A writer that tests kill: numbered lines to the log that its first argument names. After each line that is in the log for sure it says its number.
import { logFilesOf } from '../../src/process/log-files.ts'
import { openLogWriter } from '../../src/process/log-writer.ts'

const [path, from, to, limits, pad] = process.argv.slice(2) as [string, string, string, string, string]
const writer = openLogWriter({
  files: logFilesOf(path),
  limits: JSON.parse(limits),
  onError: (error) => {
    process.stderr.write(`${error}\n`)
    process.exitCode = 1
  },
})
const words = 'x'.repeat(Number(pad))
for (let i = Number(from), batches = 1; i < Number(to); batches++) {
  let text = ''
  for (let k = 0; k < 50 && i < Number(to); k++, i++) text += `line ${i} ${words}\n`
  await writer.write('stdout', Buffer.from(text))
  if (batches % 10 === 0) {
    await writer.flush()
    process.stdout.write(`${i - 1}\n`)
  }
}
await writer.close()
process.stdout.write('end\n')
