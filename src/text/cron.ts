/**
 * Cron expressions: five fields as in crontab(5), six with seconds in front, or @yearly @annually @monthly @weekly @daily @hourly. Daylight
 * saving time: a time that is skipped runs as soon as the clock has jumped, one that comes twice runs the first time; expressions that name
 * all hours follow the real hours.
 */
import { createRequire } from 'node:module'
import type { Cron } from 'croner'

type Constructor = typeof Cron

let loaded: Constructor | undefined

/** Only those who meet a job that repeats need it. Loaded in place, for manifests are checked without waiting. */
function cronClass(): Constructor {
  loaded ??= (createRequire(import.meta.url)('croner') as { Cron: Constructor }).Cron
  return loaded
}

const NAMES = /^@(?:yearly|annually|monthly|weekly|daily|midnight|hourly)$/i

function parse(expression: string, timezone: string | undefined): Cron {
  return new (cronClass())(expression.trim(), { paused: true, ...(timezone === undefined ? {} : { timezone }) })
}

/** What is wrong with an expression, as the end of a sentence that begins with it; undefined when it is right and comes true at some time. */
export function cronProblem(expression: string): string | undefined {
  const text = expression.trim()
  const fields = text.split(/\s+/).length
  if (text.startsWith('@') ? !NAMES.test(text) : fields !== 5 && fields !== 6)
    return text.startsWith('@')
      ? 'is none of @hourly @daily @weekly @monthly @yearly'
      : `has ${fields} ${fields === 1 ? 'field' : 'fields'}; it must have five (minute hour day month weekday), or six with the seconds in front`
  try {
    // Before a leap year, so that the 29th of February counts as a day.
    if (!parse(text, 'UTC').nextRun(new Date('2024-01-01T00:00:00Z'))) return 'never comes true: there is no such day'
  } catch (error) {
    const why = error instanceof Error ? error.message.replace(/^CronPattern: /, '') : String(error)
    return `is not understood: ${why.replace(/\.$/, '')}`
  }
  return undefined
}

/** Whether this host knows an IANA time zone. */
export function knownZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

/** The first time after `afterMs` (ms since 1970) at which an expression comes true; undefined when there is none. */
export function nextOccurrence(expression: string, timezone: string | undefined, afterMs: number): number | undefined {
  return parse(expression, timezone).nextRun(new Date(afterMs))?.getTime()
}
