/** What virt-v2v says with `--machine-readable=stream:stdout`: JSON messages, percentages, and the same again for people. */

export interface ToolMessage {
  type: 'message' | 'info' | 'warning' | 'error'
  text: string
}

export interface MessageReader {
  feed(text: string): void
  /** the last line, when it had no end */
  end(): void
}

/** Longest line that is looked at; guests can make the tools print anything. */
const MAX_LINE = 64 * 1024

/** Source: virt-v2v(1), "Machine readable output"; guestfs(3), "ADVANCED MACHINE READABLE OUTPUT". */
export function messageReader(o: {
  onMessage(m: ToolMessage): void
  onPercent(percent: number): void
  onOther(line: string): void
}): MessageReader {
  let rest = ''
  const line = (raw: string): void => {
    const text = raw.trimEnd()
    if (text === '') return
    const step = /^(\d{1,9})\/(\d{1,9})$/.exec(text)
    if (step) {
      const total = Number(step[2])
      if (total > 0) o.onPercent(Math.min(100, (100 * Number(step[1])) / total))
      return
    }
    const m = text.startsWith('{') ? parse(text) : undefined
    if (m) o.onMessage(m)
    else o.onOther(text)
  }
  return {
    feed(text) {
      const parts = (rest + text).split(/\r\n|\n|\r/)
      rest = parts.pop()!.slice(0, MAX_LINE)
      for (const p of parts) line(p)
    },
    end() {
      line(rest)
      rest = ''
    },
  }
}

const TYPES = new Set(['message', 'info', 'warning', 'error'])

function parse(text: string): ToolMessage | undefined {
  try {
    const j = JSON.parse(text) as { message?: unknown; type?: unknown }
    if (typeof j.message !== 'string' || typeof j.type !== 'string' || !TYPES.has(j.type)) return undefined
    return { type: j.type as ToolMessage['type'], text: j.message.slice(0, 8192) }
  } catch {
    return undefined
  }
}
