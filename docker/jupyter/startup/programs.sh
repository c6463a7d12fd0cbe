# shellcheck shell=sh
# The notebook's Python, pip and mlflow come first. For shells whose own start-up files have set another PATH.
if [ -n "${TRACKBED_PROGRAMS:-}" ]; then
  case ":$PATH:" in
    ":$TRACKBED_PROGRAMS:"*) ;;
    *) export PATH="$TRACKBED_PROGRAMS:$PATH" ;;
  esac
fi
