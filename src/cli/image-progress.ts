/** How far an image is, for people, on stderr: a bar on a terminal, else a line whenever something else begins and every ten seconds. */
import type { ImageHooks } from '../vm/images/index.ts'
import { openBars } from './bars.ts'
import { plain } from './output.ts'
import { bytes, duration } from './units.ts'

export interface ImageProgressView extends Pick<ImageHooks, 'log'> {
  progress: NonNullable<ImageHooks['progress']>
  stop(): void
}

const QUIET_MS = 10_000

export async function imageProgress(name: string, quiet: boolean): Promise<ImageProgressView> {
  const stream = process.stderr
  const log = (text: string): void => void stream.write(`${plain(text)}\n`)
  if (quiet) return { progress() {}, log, stop() {} }
  return stream.isTTY && process.env.TERM !== 'dumb' ? bar(name) : lines(name, log)
}

function lines(name: string, log: (text: string) => void): ImageProgressView {
  let last = { at: Number.NEGATIVE_INFINITY, doing: '' }
  return {
    log,
    stop() {},
    progress: (done, total, more) => {
      const at = performance.now()
      if (more.doing === last.doing && at - last.at < QUIET_MS) return
      last = { at, doing: more.doing }
      const percent = total ? ` ${Math.floor((100 * done) / total)} %` : ''
      log(`${name}:${percent} ${textOf(done, total, more)}`)
    },
  }
}

async function bar(name: string): Promise<ImageProgressView> {
  const all = await openBars(process.stderr)
  return {
    log: (text) => all.log(plain(text)),
    progress: (done, total, more) => {
      const percent = total ? Math.min(100, Math.floor((100 * done) / total)) : 0
      all.show(name, percent, {
        percent: total ? `${String(percent).padStart(3)} %` : '     ',
        name,
        text: textOf(done, total, more),
      })
    },
    stop: all.stop,
  }
}

function textOf(done: number, total: number | undefined, more: { doing: string; bytes_per_second?: number }): string {
  const rate = more.bytes_per_second
  const left = total !== undefined && rate ? `, ${duration(((total - done) / rate) * 1000)} left` : ''
  return plain(
    `${more.doing}: ${bytes(done)}${total === undefined ? '' : ` of ${bytes(total)}`}${rate === undefined ? '' : `, ${bytes(rate)}/s${left}`}`,
  )
}
